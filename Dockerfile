# syntax=docker/dockerfile:1
# The service and nothing else: no shell, no package manager, not root. It looks for siltstone.yaml in
# its working directory. Set `admin.listen` there to an address that is reached from outside the
# container; the default is not. Without a shell there is no HEALTHCHECK: probe the admin port.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# The caches outlive the layer; the binary must not lie in one. librdkafka's OpenSSL and zlib go into the
# binary, so that the last image need not have them; static OpenSSL is refused where pkg-config finds it
# among the system's libraries, hence its folders.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    export LIBZ_SYS_STATIC=1 OPENSSL_STATIC=1 OPENSSL_INCLUDE_DIR=/usr/include && \
    export OPENSSL_LIB_DIR="/usr/lib/$(cc -print-multiarch)" && \
    cargo build --locked --release --bin siltstone && cp target/release/siltstone /siltstone

# the same Debian as the builder's, for its C library
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /siltstone /siltstone
# health, status and metrics
EXPOSE 8088
ENTRYPOINT ["/siltstone"]
CMD ["run"]
