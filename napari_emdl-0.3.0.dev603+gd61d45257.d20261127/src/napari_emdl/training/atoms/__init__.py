"""HRTEM: simulated exit waves, random microscopes, column networks, their training and export."""
