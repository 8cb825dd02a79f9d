"""Many runs beside each other: comparisons, searches, students of a teacher."""
