//! How a target reads its input: as text that a person can write, where the fuzzer may
//! write anything.

#![allow(dead_code, reason = "each target uses some of it")]

pub struct Input<'a> {
    left: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(left: &'a [u8]) -> Self {
        Self { left }
    }

    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// 0 at the end.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, left)) = self.left.split_first() else { return 0 };
        self.left = left;
        first
    }

    /// A small letter; any byte stands for one.
    pub fn letter(&mut self) -> Option<u8> {
        let byte = (!self.is_empty()).then(|| self.byte())?;
        Some(if byte.is_ascii_lowercase() { byte } else { b'a' + byte % 26 })
    }

    /// 0 to 15; '0' to '9' are what they look like.
    pub fn digit(&mut self) -> usize {
        usize::from(self.byte() & 15)
    }

    /// Two bytes, the low one first.
    pub fn short(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    /// Eight bytes, the low one first.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// So many bytes, or what is left.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(n.min(self.left.len()));
        self.left = left;
        taken
    }

    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }
}

/// Runs `first`, whose memory stays on purpose: what the library makes once and keeps would
/// otherwise be taken for a leak of the input that comes first.
pub fn keep<T>(first: impl FnOnce() -> T) {
    unsafe extern "C" {
        fn __lsan_disable();
        fn __lsan_enable();
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: they come in a pair. AddressSanitizer, which has them, is always linked.
    ONCE.call_once(|| unsafe {
        __lsan_disable();
        first();
        __lsan_enable();
    });
}
