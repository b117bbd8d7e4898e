"""Tools that turn a `.proto` file into typed hvrpc clients and services."""
