"""ray_dra.translate"""
