"""What a microscope makes of a structure: SEM, TEM, steel, and the faults of a specimen."""
