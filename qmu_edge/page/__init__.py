"""What people read about a release: one page of HTML, and a letter to the person who asked."""
