"""HTTP: parses at the edge, awaits the controller, tells the answer."""
