"""Measurements on other devices: what is sent there, how, what is measured, and what becomes of it here."""
