"""What every room needs: files, processes, settings, hashes, text."""
