"""Names on bridge networks: a small DNS server of our own, one process for all networks of an instance.

    records   the files that are its only truth, as the drivers write them and as it reads them
    book      what of them answers a question, for who asks
    wire      DNS messages
    forward   questions about other names, to the resolvers of the host or of the network
    server    the process: sockets, and what is to be read again
    loop      waiting for many sockets at once
    listening port 53 of a gateway
    keeper    in the port layer's own process: starts it, adopts it, asks it, ends it
    guard     there, too: starts it again when it dies

The server imports only a few modules of the standard library, not even `typing` or `pathlib`: it lives for as long as
containers do, and this halves its memory.
"""
