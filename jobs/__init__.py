"""What a user launches: parse, build, run, report. No algorithm."""
