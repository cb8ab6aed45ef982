"""ray_dra.simulated"""
