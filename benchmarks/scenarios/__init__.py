"""Load scenarios of MLPerf for any mix of model files and endpoints: one stream, many samples, a server, offline."""
