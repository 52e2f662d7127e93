//! The store on a card that fails: every operation is a cut point; errors, stalls, damage, cards that go back in time.
