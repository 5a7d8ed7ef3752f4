//! Chance that is the same in every run of one seed.

/// Numbers that look like chance (xorshift).
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// A seed of 0 would yield zeros for ever, so it counts as 1.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper half: the lower bits of a xorshift are its weakest.
        usize::try_from((self.0 >> 16) % limit as u64).expect("below a usize")
    }

    /// One of these.
    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}
