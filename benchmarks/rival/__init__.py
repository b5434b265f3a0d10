"""The rival's side: one process a measurement, through TRL's own trainers, in a virtual environment of its own."""
