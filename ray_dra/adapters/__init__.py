"""ray_dra.adapters"""
