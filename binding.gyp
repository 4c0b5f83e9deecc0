{
  "targets": [
    {
      "target_name": "sledge",
      "sources": [
        "native/addon.cc",
        "native/attach-binding.cc",
        "native/checksum-binding.cc",
        "native/crc32c.cc",
        "native/file-binding.cc",
        "native/kernel-ring.cc",
        "native/region-binding.cc",
        "native/ring-binding.cc",
        "native/socket-binding.cc",
        "native/socket-poller.cc",
        "native/statx.cc",
        "native/thread-ring.cc"
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": [
        "NAPI_VERSION=8",
        "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS",
        "NODE_ADDON_API_DISABLE_DEPRECATED",
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"
      ],
      "cflags": ["-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
      "cflags_cc": ["-std=c++17"],
      "cflags_cc!": ["-fno-exceptions"],
      "variables": { "sanitize%": "" },
      "conditions": [
        [
          "sanitize != ''",
          {
            "cflags": ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=<(sanitize)", "-fno-sanitize-recover=undefined"],
            "ldflags": ["-fsanitize=<(sanitize)"]
          }
        ]
      ]
    }
  ]
}
