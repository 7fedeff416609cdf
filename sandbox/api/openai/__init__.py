"""OpenAI's APIs, as programs written for them call them. Chat completions are beside this package."""
