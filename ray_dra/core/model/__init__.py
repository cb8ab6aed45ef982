"""What is asked, what there is, and what is answered: frozen values."""
