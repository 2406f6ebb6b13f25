"""Long work: each run a child process, started, watched, cancelled and logged from here.

``work`` says what a request may ask for and does it; ``child`` is the process; ``supervisor`` keeps the children.
"""
