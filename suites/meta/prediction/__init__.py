"""How good predictions of speed are: against measurements of this machine, and against published figures of cards."""
