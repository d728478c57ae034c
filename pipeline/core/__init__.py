"""What is true about charges, money, periods and entries, with the standard library alone."""
