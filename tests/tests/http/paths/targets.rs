//! What is asked for: each byte in each place, and paths of what normalizing looks at.

/// Where a byte stands.
pub(super) const PLACES: [(&str, &str); 10] = [
    ("/upper/a", "b"),
    ("http://other.example/upper/a", "b"),
    ("/lower/a", "b"),
    ("/raw/a", "b"),
    ("/one/a", "b/end"),
    ("/many/a", "b/q/2/end"),
    ("/many/1/q/a", "b/end"),
    ("/route/a", "b"),
    ("/old/a", "b/c"),
    ("/query?x=", "y"),
];

pub(super) fn with_each_byte() -> Vec<Vec<u8>> {
    let mut targets = Vec::new();
    for byte in 0..=255u8 {
        let mut forms = vec![vec![byte], format!("%{byte:02X}").into_bytes()];
        forms.push(format!("%{byte:02x}").into_bytes());
        forms.dedup();
        for form in &forms {
            for (before, after) in PLACES {
                targets.push([before.as_bytes(), form, after.as_bytes()].concat());
            }
        }
    }
    targets
}

/// Paths of what normalizing looks at, the same ones every time.
pub(super) fn random(count: usize) -> Vec<Vec<u8>> {
    let pieces = [
        "/", "/", "/", ".", "..", ";", "%", "%2", "%2e", "%2F", "%5c", "%25", "%4", "%34", "%31",
        "%7C", "%41", "\\", "|", "\"", "{", "a", "b", "1", "e", "[", "?", "//", "/..;", "/.;x",
        "%zz", "<", "`",
    ];
    let mut state = 7u64;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    (0..count)
        .map(|_| {
            let length = 1 + next(7);
            let text: String = (0..length).map(|_| pieces[next(pieces.len())]).collect();
            format!("/{text}").into_bytes()
        })
        .collect()
}
