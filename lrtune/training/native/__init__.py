"""Our own training loop: a task that lrtune trains itself, on one device."""
