"""Images with boxes around objects: from annotation files to batches."""
