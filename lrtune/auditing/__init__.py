"""Training loops that are not lrtune's: is the schedule that runs in them the one that was meant?"""
