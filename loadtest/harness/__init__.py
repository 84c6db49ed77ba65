"""What run.py is made of: processes, load, scenarios, verdicts, the report. Standard library only."""
