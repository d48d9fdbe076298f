"""The command line of serving: archives, servers, versions, and what is around them."""
