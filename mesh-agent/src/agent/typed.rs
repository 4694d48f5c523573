// SPDX-License-Identifier: Apache-2.0

//! What was typed, in the words of those whom it concerns.
//!
//! Knows nothing of what they make of it.

use crate::{
    model::PathNormalization,
    proxy::RequestHeaders,
    settings::{AddedHeaders, Normalization},
};

/// What requests are given that they did not bring.
pub(super) fn request_headers(added: AddedHeaders) -> RequestHeaders {
    match added {
        AddedHeaders::None => RequestHeaders::None,
        AddedHeaders::Id => RequestHeaders::Id,
        AddedHeaders::Trace => RequestHeaders::Trace,
        AddedHeaders::Envoy => RequestHeaders::Envoy,
    }
}

/// How much of the spelling of paths is undone.
pub(super) fn path_normalization(how: Normalization) -> PathNormalization {
    match how {
        Normalization::None => PathNormalization::None,
        Normalization::Base => PathNormalization::Base,
        Normalization::MergeSlashes => PathNormalization::MergeSlashes,
        Normalization::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
    }
}
