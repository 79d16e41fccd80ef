//! Standard error, without std's lock, which a thread may have that is not there in the child of a fork.

use crate::errno;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr;

/// Writes a line, in one write. If there is nowhere to write it, it is lost. Async-signal-safe, and no cancellation
/// point.
pub fn write(line: &[u8]) {
    let mut broken_pipe = MaybeUninit::<libc::sigset_t>::uninit();
    let (mut pending, mut before) = (broken_pipe, broken_pipe);
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // A reader that has gone does not end the program: the signal is this thread's, and is taken back.
    // SAFETY: the sets are filled in before they are read, and the rest is ours. (The system calls themselves, because
    // the functions are cancellation points.)
    errno::kept(|| unsafe {
        libc::sigemptyset(broken_pipe.as_mut_ptr());
        libc::sigaddset(broken_pipe.as_mut_ptr(), libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, broken_pipe.as_ptr(), before.as_mut_ptr());
        libc::sigpending(pending.as_mut_ptr());
        libc::syscall(libc::SYS_write, libc::STDERR_FILENO, line.as_ptr(), line.len());
        if libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 0 {
            let (none, size) = (ptr::null::<libc::siginfo_t>(), size_of::<u64>());
            libc::syscall(libc::SYS_rt_sigtimedwait, broken_pipe.as_ptr(), none, &at_once, size);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
    });
}

/// A line that is put together without an allocation. What there is no room for is left out.
pub(crate) struct Line<const N: usize> {
    text: [u8; N],
    len: usize,
}

impl<const N: usize> Line<N> {
    pub(crate) fn new() -> Self {
        Self { text: [0; N], len: 0 }
    }

    /// Ends the line, and writes it. (Not by value: a signal handler's stack may be small.)
    pub(crate) fn end(&mut self) {
        self.text[self.len] = b'\n';
        write(&self.text[..=self.len]);
    }
}

impl<const N: usize> fmt::Write for Line<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One place is kept for the newline.
        let n = text.len().min(N - 1 - self.len);
        self.text[self.len..][..n].copy_from_slice(&text.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    /// What a child of a fork does. Whether it has ended well, in time.
    pub(crate) fn ends_well(does: impl FnOnce()) -> bool {
        let mut status = 0;
        // SAFETY: the child takes no lock of others and does not return.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::alarm(20);
                does();
                libc::_exit(0);
            }
            libc::waitpid(child, &mut status, 0) == child && status == 0
        }
    }

    #[test]
    fn a_reader_that_has_gone_does_no_harm() {
        let child = || {
            let mut ends = [0; 2];
            // SAFETY: the place is ours. Rust's programs ignore the signal, and others do not.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                libc::pipe(ends.as_mut_ptr());
                libc::dup2(ends[1], 2);
                libc::close(ends[0]);
            }
            super::write(b"nobody reads this\n");
        };
        assert!(ends_well(child));
    }
}
