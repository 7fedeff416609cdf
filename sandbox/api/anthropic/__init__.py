"""Anthropic's API, as programs written for it call it."""
