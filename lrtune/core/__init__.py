"""The values that everything else speaks in: plain, frozen, standard library only."""
