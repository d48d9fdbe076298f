"""Proof of the serving room's goals: servers under load, hostile requests, kills, swaps, altered files and peers."""
