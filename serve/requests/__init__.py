"""Requests and answers: bytes and headers become arrays, within bounds, and arrays become bytes."""
