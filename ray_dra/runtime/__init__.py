"""ray_dra.runtime"""
