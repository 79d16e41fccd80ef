//! Imports of a file that say something of what comes after its unload.

/// What a plugin imports that can call it later. Each row: the keyword, the symbols, and for people
/// what is the matter and what to do.
///
/// Handlers of `atexit` and `pthread_atfork` are not here, and `__cxa_atexit` is not: glibc links
/// the former into each object, and takes all of them back when it closes that object.
pub(super) const IMPORTS: &[(&str, &[&str], &str)] = &[
    (
        "thread",
        &[
            "pthread_create",
            "thrd_create",
            // What the templates of std::thread, std::jthread and std::async call.
            "_ZNSt6thread15_M_start_threadESt10unique_ptrINS_6_StateESt14default_deleteIS1_EEPFvvE",
        ],
        "a thread that runs its code when it is unmapped crashes; start threads with \
         module_thread_create(), or join them in cleanup_module()",
    ),
    (
        "thread-key",
        &["pthread_key_create", "tss_create"],
        "a thread that ends calls the destructor of a key also after the unload; delete the key in \
         cleanup_module()",
    ),
    (
        "thread-local",
        &["__cxa_thread_atexit", "__cxa_thread_atexit_impl"],
        "a thread-local object with a destructor keeps it mapped until every thread that has one has \
         called the host, or ended; have each such thread call module_symbol() now and then",
    ),
    (
        "exit-handler",
        &["on_exit"],
        "its handler is called at the end of the program, also after the unload; use atexit(), \
         whose handlers run at the unload, or cleanup_module()",
    ),
    (
        "signal-handler",
        &[
            "signal",
            "sigaction",
            "__sigaction",
            "sigset",
            "ssignal",
            "bsd_signal",
            "sysv_signal",
            "__sysv_signal",
        ],
        "a signal calls its handler also after the unload; set the former action again in \
         cleanup_module()",
    ),
    (
        "timer",
        &["timer_create", "mq_notify", "getaddrinfo_a"],
        "what it asks to be told of later may call its code after the unload; take the request \
         back in cleanup_module(), and wait until it is not running",
    ),
];

/// The import of this name, if it says something of what comes after the unload.
pub(super) fn watched(import: &[u8]) -> Option<&'static str> {
    IMPORTS.iter().flat_map(|row| row.1).copied().find(|symbol| symbol.as_bytes() == import)
}
