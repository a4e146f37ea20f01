"""One service for every language and task; `polyfold serve` starts it."""
