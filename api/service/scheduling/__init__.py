"""Schedules at work: ``scheduler`` begins the runs that are due, ``told`` says how schedules stand, ``events`` tells
other hosts what happened.
"""
