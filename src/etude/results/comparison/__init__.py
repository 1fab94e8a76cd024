"""Many runs side by side: read, put into tables, tested pair by pair, and written down."""
