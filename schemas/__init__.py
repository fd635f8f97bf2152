"""Plain data that is written down or crosses a process."""
