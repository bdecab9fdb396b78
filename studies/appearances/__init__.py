"""Every appearance of single-phase grains: a virtual zoo, real fields, and one left out of training."""
