"""How small a slowdown the paired samples of a speed verdict find, and how often they cry wolf.

`record` times eager with itself, and slowed down by known shares, in one worker after another, and keeps every run;
`study` lets the rule of the speed verdicts loose on what was recorded, and the rule that most projects have.
"""
