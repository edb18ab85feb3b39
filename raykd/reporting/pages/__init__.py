"""Pages for a reader: runs, searches, tables and stores as HTML files that need nothing but themselves."""
