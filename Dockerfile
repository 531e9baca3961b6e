# syntax=docker/dockerfile:1
# The service and nothing else: no shell, no package manager, not root. It looks for siltstone.yaml in
# its working directory. Set `admin.listen` there to an address that is reached from outside the
# container; the default is not. Without a shell there is no HEALTHCHECK: probe the admin port.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# librdkafka's OpenSSL and zlib go into the binary: which of them the last image has is its own affair
ENV OPENSSL_STATIC=1 LIBZ_SYS_STATIC=1
# the caches outlive the layer; the binary must not lie in one
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --locked --release --bin siltstone && cp target/release/siltstone /siltstone

# the same Debian as the builder's, for its C library
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /siltstone /siltstone
# health, status and metrics
EXPOSE 8088
ENTRYPOINT ["/siltstone"]
CMD ["run"]
