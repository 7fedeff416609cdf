import re
ANSWER="Answer in one sentence from this output, or write another program."
FIX="Fix the mistake and write the whole program again."
def instructions(function): return "Write one complete program in a ```python fence."
def program(text):
    m=re.search(r"```(?:python)?\n(.*?)```",text,re.S)
    return m[1] if m else None
