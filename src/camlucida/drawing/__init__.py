"""Maps as pictures for people: colour maps, overlays, captions, sheets."""
