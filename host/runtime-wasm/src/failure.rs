//! Why a guest ended: the one place that reads wasmtime's errors.

use eyot_runtime::Exit;
use wasmtime::PoolConcurrencyLimitError;
use wasmtime_wasi::I32Exit;

use crate::{clock::TooLong, memory::OutOfMemory};

/// Longest message about a failure: what Kubernetes keeps of a termination message.
const MESSAGE: usize = 4096;

/// The exit of a process whose call of `wasi:cli/run` came to this.
pub(crate) fn exit(result: wasmtime::Result<Result<(), ()>>) -> Exit {
    let error = match result {
        Ok(Ok(())) => return Exit::from_code(0),
        Ok(Err(())) => return Exit::from_code(1),
        Err(error) => error,
    };
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Exit::from_code(*code & 0xff);
    }
    let message = describe(&error);
    if error.downcast_ref::<OutOfMemory>().is_some() {
        return Exit {
            code: 137,
            reason: "OOMKilled",
            message,
        };
    }
    Exit {
        code: 134,
        reason: "Error",
        message,
    }
}

/// What happened, for the user: the cause first, then the guest's stack.
pub(crate) fn describe(error: &wasmtime::Error) -> String {
    let mut text = if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        "this host runs as many Wasm instances as it has room for; end some, or add memory".into()
    } else if let Some(error) = error.downcast_ref::<OutOfMemory>() {
        error.to_string()
    } else if let Some(error) = error.downcast_ref::<TooLong>() {
        error.to_string()
    } else {
        let cause = error.root_cause().to_string();
        let chain = format!("{error:#}");
        // The chain begins with the backtrace, whose context wraps the cause.
        let rest = chain.strip_suffix(&format!(": {cause}")).unwrap_or(&chain);
        if rest == cause {
            cause
        } else {
            format!("{cause}\n{rest}")
        }
    };
    cut(&mut text, MESSAGE);
    text
}

/// Shorten to at most `limit` bytes, between characters.
pub(crate) fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
    }
}
