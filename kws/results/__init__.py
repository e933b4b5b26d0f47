"""What came of runs, from their folders' files alone: comparison, pictures, one HTML page. Free of torch."""
