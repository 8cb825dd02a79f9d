"""Local pages for people: `review`, on which labels are corrected, and the server that they share."""
