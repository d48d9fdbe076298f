"""Operations on captured graphs that all parts of compression use."""
