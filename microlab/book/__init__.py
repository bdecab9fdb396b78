"""What only the chapters need: shared experiments, stored records, figures, widgets and exercises."""
