//! `/debug/pprof/…`, `/heapprofiler`, `/heap_dump`: profiles of this process, for tools that read pprof's.
//!
//! A profile takes its time, and is the answer: there is no folder that a pod's files could be fetched from.

use std::time::Duration;

use http::StatusCode;

use crate::admin::Admin;
use crate::admin::answer::{Answer, file, text};
use crate::admin::target::Target;
use crate::profiles::{LONGEST, ProfileError};

/// Of a profile of the processor, as Go has it.
const LASTING: Duration = Duration::from_secs(30);

/// For how long, if the request says.
fn lasting(target: &Target) -> Result<Option<Duration>, String> {
    let Some(seconds) = target.get("seconds") else {
        return Ok(None);
    };
    let lasting = seconds.parse().ok().map(Duration::from_secs);
    let lasting = lasting.filter(|lasting| (Duration::from_secs(1)..=LONGEST).contains(lasting));
    let most = LONGEST.as_secs();
    let wrong = || format!("seconds={seconds}: a number from 1 to {most} is wanted\n");
    lasting.map(Some).ok_or_else(wrong)
}

fn refused(error: &ProfileError) -> Answer {
    let status = match error {
        ProfileError::Busy(_) => StatusCode::CONFLICT,
        ProfileError::NotRecording => StatusCode::NOT_IMPLEMENTED,
        ProfileError::NoRoom(_) | ProfileError::NoFolder => StatusCode::SERVICE_UNAVAILABLE,
        ProfileError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(status, format!("{error}\n"))
}

fn made(profile: Result<Vec<u8>, ProfileError>, named: &'static str) -> Answer {
    match profile {
        Ok(profile) => file(named, profile),
        Err(error) => refused(&error),
    }
}

pub(super) fn processor(admin: &Admin, target: &Target) -> Answer {
    match lasting(target) {
        Err(wrong) => text(StatusCode::BAD_REQUEST, wrong),
        Ok(lasting) => made(
            admin.profiles.processor(lasting.unwrap_or(LASTING)),
            "attachment; filename=\"profile.pb.gz\"",
        ),
    }
}

pub(super) fn heap(admin: &Admin, target: &Target) -> Answer {
    match lasting(target) {
        Err(wrong) => text(StatusCode::BAD_REQUEST, wrong),
        Ok(lasting) => made(
            admin.profiles.heap(lasting),
            "attachment; filename=\"heap.pb.gz\"",
        ),
    }
}

/// Whether the request asks for a change.
pub(super) fn changes(target: &Target) -> bool {
    target.get("enable").is_some()
}

/// `enable=y` and `n`, as Envoy has it.
pub(super) fn heap_recording(admin: &Admin, target: &Target) -> Answer {
    let changed = match target.get("enable") {
        None => Ok(()),
        Some("y") => admin.profiles.record_heap(true),
        Some("n") => admin.profiles.record_heap(false),
        Some(_) => return text(StatusCode::BAD_REQUEST, "enable=y or enable=n is wanted\n"),
    };
    match changed.and_then(|()| admin.profiles.heap_recorded_since()) {
        Ok(None) => text(StatusCode::OK, "the heap isn't recorded\n"),
        Ok(Some(since)) => {
            let seconds = since.elapsed().unwrap_or_default().as_secs();
            let says = format!("the heap is recorded, for {seconds} s so far: /heap_dump\n");
            text(StatusCode::OK, says)
        }
        Err(error) => refused(&error),
    }
}

/// Of Envoy's `/cpuprofiler`, which leaves a file behind.
pub(super) fn no_file() -> Answer {
    text(
        StatusCode::NOT_IMPLEMENTED,
        "A profile is not left in a file: GET /debug/pprof/profile?seconds=N answers with it.\n",
    )
}

/// jemalloc keeps no profile of the time when most was in use.
pub(super) fn no_peak() -> Answer {
    text(
        StatusCode::NOT_IMPLEMENTED,
        "The heap's peak is not recorded; what is in use is: /heapprofiler?enable=y, /heap_dump.\n",
    )
}

/// Freed memory's places would be kept without bound.
pub(super) fn no_allocations() -> Answer {
    text(
        StatusCode::NOT_IMPLEMENTED,
        "What was freed again is not recorded; what is in use is: /heapprofiler?enable=y, /heap_dump.\n",
    )
}
