"""`polyfold benchmark`: how fast artifacts are on this machine, beside what the machine could do at best."""
